"""One module per DVC stage, named as the stage is; `main(config)` calls the package and writes the outputs.

`python -m frostline.stages NAME [OVERRIDE …]` runs one: see `run`.
"""
