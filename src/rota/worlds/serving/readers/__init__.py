"""How a trace file becomes columns: `tables` opens files, `columns` checks values.

The way in is `rota.worlds.serving.read`.
"""
