import http.server
import threading
from collections import Counter

import pytest


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves ``server.files``, counts ``server.requests``."""

    class Handler(http.server.BaseHTTPRequestHandler):

        def do_GET(self):
            server.requests[self.path] += 1
            if self.path not in server.files:
                self.send_error(404)
                return
            content = server.files[self.path]
            self.send_response(200)
            if server.send_length:
                self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content[:server.break_off_after])

        def log_message(self, *args):
            pass

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.requests = {}, Counter()
    server.send_length, server.break_off_after = True, None
    server.url = f'http://127.0.0.1:{server.server_port}'
    server.hub = tmp_path / 'hub'
    thread = threading.Thread(target=server.serve_forever, args=(.01, ))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
