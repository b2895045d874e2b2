"""Functions from arrays and tables to matplotlib figures; `dc3.figures.style` has their look and their files."""

from dc3.figures.images import MAX_CLASSES as MAX_CLASSES
from dc3.figures.images import WIDTH as WIDTH
from dc3.figures.images import bin_maps as bin_maps
from dc3.figures.images import class_samples as class_samples
from dc3.figures.images import colorfulness_violins as colorfulness_violins
from dc3.figures.images import confusion as confusion
from dc3.figures.images import coverage_bars as coverage_bars
from dc3.figures.images import gain_curves as gain_curves
from dc3.figures.images import image_rows as image_rows
from dc3.figures.images import similarity_matrix as similarity_matrix
from dc3.figures.images import training_curve as training_curve
from dc3.figures.style import save as save
from dc3.figures.style import save_table as save_table
