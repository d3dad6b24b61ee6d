"""IGC-V2, IGC-V1 and Xception: products of interleaved group convolutions."""
