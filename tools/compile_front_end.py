"""Compiles the front end for this processor, so that the first job and its workers need not."""

import numpy as np

from audioclf.audio.frontend import get_front_end
from audioclf.audio.half_precision import to_float16
from audioclf.audio.log_mel import log_mel

# A pure tone: beside it other bands are so faint that double precision is compiled as well.
tone = np.sin(np.arange(44_100) * 0.1, dtype=np.float32)
picture = log_mel(tone, get_front_end("logmel44k"))
to_float16(picture, np.empty(picture.shape, np.float16))
