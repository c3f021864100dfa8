"""The contracts between stages: column names and Arrow schemas."""

import pyarrow as pa

SCHEMA_VERSION = "1"
SHARD_VERSION = "2"
"""1: log_mel as lists."""

# Keys of the Parquet files' schema metadata.
META_VERSION = b"audioclf.schema_version"
META_FRONT_END = b"audioclf.front_end"
META_CONFIG_DIGEST = b"audioclf.config_digest"
META_SHAPE = b"shape"  # of the field log_mel, or pcm
META_UNIT = b"audioclf.unit"  # JSON: the counters of this unit of work; of the file, known when it ends

MANIFEST = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("fold", pa.int32()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64()),
        pa.field("sample_rate", pa.int32()),
        pa.field("channels", pa.int32()),
        pa.field("recorded_at", pa.timestamp("us", tz="UTC")),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

REJECT = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("segment_index", pa.int32()),  # null: the whole clip
        pa.field("copy_index", pa.int32()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)


def shard(column: str, dtype: str, n_features: int, n_frames: int) -> pa.Schema:
    """The schema of a shard whose rows hold pictures of one shape.

    The picture is a column's float16 or int16 values, little-endian, one feature's frames after the other's: as opaque
    bytes they are written and read in a third of the time that a list of numbers takes.

    Args:
        column, dtype: log_mel and float16; or of waveforms, whose frames are samples, pcm and int16.
        n_features, n_frames: of each picture.
    """
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("segment_index", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("copy_index", pa.int32(), nullable=False),  # 0: the original
            pa.field("transform_set", pa.string(), nullable=False),
            pa.field("transform_params", pa.string(), nullable=False),  # JSON
            pa.field(
                column,
                pa.binary(2 * n_features * n_frames),
                nullable=False,
                metadata={"dtype": dtype, META_SHAPE: f"[{n_features}, {n_frames}]"},
            ),
            pa.field("valid_frames", pa.int32(), nullable=False),  # frames beyond it are padding
            pa.field("labels", pa.list_(pa.string()), nullable=False),
            pa.field("fold", pa.int32()),
            pa.field("source_id", pa.string(), nullable=False),
            pa.field("flags", pa.list_(pa.string()), nullable=False),
            pa.field("content_digest", pa.string(), nullable=False),
        ]
    )


_HEARD = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("recorded_at", pa.timestamp("us", tz="UTC")),
    pa.field("start_s", pa.float64(), nullable=False),
    pa.field("end_s", pa.float64(), nullable=False),
    pa.field("tag", pa.string(), nullable=False),
    pa.field("mid", pa.string()),
    pa.field("probability", pa.float32(), nullable=False),
]

TAG = pa.schema(
    [
        *_HEARD,
        pa.field("rank", pa.int32(), nullable=False),  # 1: the likeliest of its window
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

# Neighbouring windows of one recording that have the same tag; probability is the highest of its windows.
EVENT = pa.schema(
    [
        *_HEARD,
        pa.field("mean_probability", pa.float32(), nullable=False),
        pa.field("windows", pa.int32(), nullable=False),
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

# One row a recording of a tag run.
RECORDING = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("recorded_at", pa.timestamp("us", tz="UTC")),
        pa.field("status", pa.string(), nullable=False),  # ok | partial | rejected
        pa.field("retry", pa.bool_(), nullable=False),  # what kept it from being heard may pass: it is due again
        pa.field("duration_s", pa.float64(), nullable=False),  # of what could be heard
        pa.field("windows", pa.int32(), nullable=False),
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # as of a shard's row; silent: all of it
        pa.field("top_tag", pa.string()),  # the likeliest tag by mean probability over the windows
        pa.field("top_probability", pa.float32()),
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

# The same as a unit of work commits it: of a long recording, one row a unit.
PART = pa.schema(
    [
        *RECORDING,
        pa.field("segments", pa.int32(), nullable=False),  # planned here; 0: all there are
        pa.field("segments_total", pa.int32(), nullable=False),  # of the recording, where it is spread over units
        pa.field("probability_sum", pa.list_(pa.float64())),  # over the windows; null unless spread over units
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

EMBEDDING = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float16()), nullable=False),
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)

PREDICTION = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("fold", pa.int32()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),  # of what was heard, in the file
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),  # in the vocabulary's order
        pa.field("seed", pa.int32(), nullable=False),  # of the training
    ],
    metadata={META_VERSION: SCHEMA_VERSION},
)
