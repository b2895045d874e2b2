"""The dc3 command, which executes notebooks in its own process, so that what they import is imported once."""

from unittest.mock import patch

from workshop import execute_here

from dc3.cli import main
from dc3.runs.kernels import Kernels

if __name__ == "__main__":
    with patch.multiple(
        Kernels, execute=lambda kernels, *stage: execute_here(*stage), start_ahead=lambda kernels, name: None
    ):
        main()
