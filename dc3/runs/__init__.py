"""Run folders, params files and notebooks: they check, execute and report the method."""

from dc3.runs.notebook_stage import begin as begin
