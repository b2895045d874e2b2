"""DC3: dataset condensation with colour compensation (arXiv 2508.01139). One module an idea: see CONTRIBUTING.md."""
