"""ShardNet: one filter set applied through a whole VGG or ResNet."""
