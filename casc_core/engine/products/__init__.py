"""How linear maps of trains are computed: products, convolutions, deferred sums, pooling windows."""
