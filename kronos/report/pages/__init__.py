"""Interactive pages by Plotly: candles of forecasts and the curves of a report, without any download when viewed."""
