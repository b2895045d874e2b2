"""What 07 fine-tunes, and how the shipped editor was made."""
