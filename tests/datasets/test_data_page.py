"""What docs/data.md says to type."""
import os
import re
from pathlib import Path

from PIL import Image

PAGE = Path(__file__).parents[2] / 'docs' / 'data.md'


def test_large_photographs_are_shrunk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.makedirs('photos/sub')
    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter
    Image.new('RGB', (2000, 1000)).save('photos/large.jpg')
    Image.new('RGB', (2000, 1000)).save('photos/sub/turned.jpg', exif=turned)
    Image.new('L', (300, 200)).save('photos/sub/small.jpg')
    whole = Path('photos/large.jpg').read_bytes()
    Path('photos/cut off.jpg').write_bytes(whole[:len(whole) // 2])
    snippet = re.search(r'## Large photographs.*?```python\n(.*?)```',
                        PAGE.read_text(), re.DOTALL)
    exec(snippet[1], {})
    sizes = {}
    for path in Path('photos_512').rglob('*.*'):
        with Image.open(path) as image:
            assert image.mode == 'RGB'
            sizes[path.as_posix()] = image.size
    assert sizes == {
        'photos_512/large.jpg': (1024, 512),
        'photos_512/sub/turned.jpg': (512, 1024),
        'photos_512/sub/small.jpg': (300, 200),
    }
    assert 'photos/cut off.jpg: ' in capsys.readouterr().out
