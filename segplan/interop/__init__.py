"""Models of other programs in, segplan's out; nothing is ever unpickled without restriction."""
