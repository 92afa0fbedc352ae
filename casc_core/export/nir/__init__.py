"""A converted network as a NIR graph (Pedersen et al. 2024, "Neuromorphic intermediate representation").

NIR has integrate-and-fire neurons, linear maps, sums over windows and flattening. It has no soft reset, no negative spike,
no count of spikes and no initial potential: what a network of `IF()` neurons under `Continuous()` does can be said, and
what consistent neurons do cannot. The graph begins at the current of the first layer, which flows at each step.
"""
