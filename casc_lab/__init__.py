"""Experiments on converted networks; knows no family of models, and can be imported without torch.

Internal, but for the command, and `casc_lab.cli.Command` for commands of your own.

- `cli`: the command `casc`, whose parts any package can add. `command`: the command line of a recipe.
- `training`: repeatable, resumable to the bit, on one process or several.
- `evaluation`: the four methods over a test set, a table, pictures, and levels compared.
- `compare`: every method on one trained network, and a report. `html`: its pictures.
- `distributed`: several processes as one. `hub`: data sets of the Hugging Face hub. `progress`: how far work has come.
- `threads`: how torch's threads wait. Importing this package before torch sets it.
"""

from casc_lab.threads import spin_briefly

spin_briefly()
