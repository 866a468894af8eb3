# Both sides of the digits: the student has 4 blocks of 48 channels, the
# teacher 8 of 96.
student_arch = dict(
    embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=192)
teacher_arch = dict(
    embed_dims=96, num_layers=8, num_heads=4, feedforward_channels=384)
