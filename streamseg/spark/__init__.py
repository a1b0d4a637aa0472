"""The engine on Apache Spark: `segment_stream`."""

from streamseg.spark.stream import segment_stream as segment_stream
