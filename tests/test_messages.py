from dmae_mm.messages import first_few, one_line


def test_first_few():
    letters = list('abcdefg')
    assert first_few(letters[:5]) == 'a, b, c, d, e'
    assert first_few(letters) == 'a, b, c, d, e and 2 more'
    assert first_few(letters, 3, '; ') == 'a; b; c and 4 more'
    assert first_few([]) == ''


def test_one_line():
    assert one_line(KeyError('x')) == "KeyError: 'x'"
    assert one_line(ValueError('a\n   b')) == 'ValueError: a b'
    assert len(one_line(ValueError('a' * 900))) == len('ValueError: ') + 500
