"""How linear maps of trains are computed: products, convolutions, sums that wait for whoever reads them, windows."""
