"""Folders of toy shards, and a server for them."""
import contextlib
import functools
import os
import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

# A file is some bytes here: shards do not look inside.
NAMES = [
    *(f'cat/{number}.JPEG' for number in range(20)),
    *(f'cat/deep/er/{number}.b.png' for number in range(10)),
    *(f'dog/ä {number}.jpg' for number in range(17)),
    'dog/' + 'long' * 60 + '.png', 'dog/' + os.fsdecode(b'\xff\xfe.webp')
]


def write_files(root: Path) -> dict:
    """Write NAMES, and files that are none of the images.

    Returns:
        dict[str, bytes]: What is in each image.
    """
    rng = np.random.RandomState(0)
    contents = {name: rng.bytes(rng.randint(500, 2000)) for name in NAMES}
    contents['dog/0.jpg'] = b''
    for name, content in [*contents.items(), ('cat/notes.txt', b'no image')]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def contents_of(dataset) -> dict:
    """Read a whole data set: name in a shard -> bytes."""
    samples = [dataset[index] for index in range(len(dataset))]
    return {
        sample['img_path'].split('.tar/')[1]: sample['img_bytes']
        for sample in samples
    }


class Server:
    """Serves a folder on 127.0.0.1.

    Attributes:
        url (str): Of the folder.
        requests (Counter): How often each file was asked for.
        slow (threading.Event): While set, shards stop in the middle.
        broken (set): Paths of which only a half is sent.
    """

    def __init__(self, folder: Path) -> None:
        self.requests = Counter()
        self.slow = threading.Event()
        self.broken = set()

        class Handler(SimpleHTTPRequestHandler):

            def log_message(self, *args):
                pass

            def copyfile(self, source, outputfile):
                content = source.read()
                half = len(content) // 2
                outputfile.write(content[:half])
                if self.path in server.broken:
                    return
                while server.slow.is_set() and self.path.endswith('.tar'):
                    outputfile.flush()
                    time.sleep(0.01)
                outputfile.write(content[half:])

            def do_GET(self):
                server.requests[self.path] += 1
                # The client may be killed.
                with contextlib.suppress(ConnectionError):
                    super().do_GET()

        server = self
        self.http = ThreadingHTTPServer(
            ('127.0.0.1', 0),
            functools.partial(Handler, directory=str(folder)))
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(
            target=self.http.serve_forever, args=(0.02, ), daemon=True).start()

    def close(self) -> None:
        self.slow.clear()
        self.http.shutdown()
        self.http.server_close()
