"""ShaResNet: the blocks of a residual stage share their spatial convolution."""
