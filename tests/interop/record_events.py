"""Records src/io/testdata/events.bin with tensorboard's own writer. pip install tensorboard==2.20.0

usage: python3 tests/interop/record_events.py
"""
import pathlib

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

PNG = bytes([0x89, 0x50, 0x4E, 0x47, 0, 255])
EVENTS = [
    Event(file_version="brain.Event:2"),
    Event(step=300, session_log=SessionLog(status=SessionLog.START)),
    Event(step=300, summary=Summary(value=[Summary.Value(tag="loss", simple_value=0.5)])),
    Event(step=1 << 40, summary=Summary(value=[Summary.Value(tag="held_out/step 2", simple_value=-1.5e-9)])),
    Event(step=301, summary=Summary(value=[Summary.Value(tag="samples", image=Summary.Image(height=200, width=3000, colorspace=3, encoded_image_string=PNG))])),
]

if __name__ == "__main__":
    path = pathlib.Path(__file__).parents[2] / "src/io/testdata/events.bin"
    with open(path, "wb") as f:
        writer = RecordWriter(f)
        for i, event in enumerate(EVENTS):
            event.wall_time = 1_700_000_000.25 + i
            writer.write(event.SerializeToString())
        writer.flush()
    print(path, path.stat().st_size, "bytes")
