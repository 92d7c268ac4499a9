"""Names, versions, aliases and the bytes behind them."""
