"""The recurrent layers that are trained: RNN, GRU and LSTM with levels."""
