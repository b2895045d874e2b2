"""Run folders, params files and notebooks: what executes the method, checks it before, and reports it after."""

from dc3.runs.stage import begin as begin
