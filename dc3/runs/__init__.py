"""Run folders, params files and notebooks: what executes the method, checks it before, and reports it after."""

from dc3.runs.notebook_stage import begin as begin
