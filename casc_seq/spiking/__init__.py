"""What recurrent layers are in spikes: operations of a program, and how they are exported."""
