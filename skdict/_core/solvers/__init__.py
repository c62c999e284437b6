"""What finds a dictionary: the states of training, their schedules, resampling."""
