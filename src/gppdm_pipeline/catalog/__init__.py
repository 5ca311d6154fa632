"""Kedro's data sets and what lies behind them: the only place where pipelines meet files."""
