# The control: the same student and schedule without a teacher.
_base_ = 'vit-student_dmae_digits.py'

work_dir = 'work_dirs/quickstart/seed0/mae'
model = dict(teacher=None, aligned_layers=[])
