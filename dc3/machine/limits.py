"""The values that numbers in parameters and recipes may have: beyond them a run cannot end well."""

LARGEST = 2**31 - 1  # of whole numbers: more than a run can count, and what the libraries' integers hold
LARGEST_SEED = 2**32 - 1  # scikit-learn's
SMALLEST_SIZE, LARGEST_SIZE = 8, 8192  # pixels a side
LARGEST_SCALE = 100  # of guidance: beyond it, edits are noise, and in float16 NaN
LARGEST_WEIGHT = 1e6  # of one term of a sum against another, which a larger one would round away
LARGEST_RATE, SMALLEST_RATE = 1.0, 1e-8  # of learning: a step of more is no descent, one of less is none in float32
COLDEST, HOTTEST = 0.01, 1000.0  # temperature: beyond them, soft labels are one class, or all alike
NOISE_LEVELS = 1000  # that diffusion models are trained at: no sampler has more steps
MOST_CHANNELS = 8192  # of a layer
MOST_IN_BATCH = 65_536
MOST_EPOCHS = 1_000_000
MOST_STEPS = 10_000_000  # of a training
SMALLEST_GPU_SHARE = 0.0001  # that Ray counts
