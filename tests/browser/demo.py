"What the demo page promises: `check_demo(page, url)`, for test_site.py."

import base64
import io
import re
import tempfile
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Page, TimeoutError as Late

from unetkit.deploy import onnx_predictor, read_onnx_metadata
from unetkit.labels import Palette, colours_to_labels
from unetkit.stitching import predict_tile

PATIENCE = 120_000  # Milliseconds that a map may take on a busy machine
TIES = 1e-4  # Share of the labels that may differ where two classes are as likely as each other
NUMBERS = 'changed', 'windows', 'work', 'time', 'speed', 'accuracy'


def said(page):
    return page.inner_text('#demo-status')


def numbers(page):
    "The numbers of the page, as it writes them."
    return {name: page.inner_text(f'#demo-n-{name}') for name in NUMBERS}


def changed(page):
    "Share of labels that differ from the whole image's, in percent."
    text = numbers(page)['changed']
    return 0.0 if text == 'none' else float(text.removesuffix(' %'))


def canvas(page, name):
    "The pixels of a canvas, uint8 (H, W, 3)."
    data = page.evaluate('name => document.getElementById(`demo-${name}`).toDataURL("image/png")', name)
    return np.array(Image.open(io.BytesIO(base64.b64decode(data.split(',')[1]))).convert('RGB'))


def settle(page, act, *what):
    "Do something to the page, and wait until it has told what came of it."
    page.evaluate('document.getElementById("demo-status").textContent = ""')
    act(page, *what)
    done = 'document.getElementById("demo-status").textContent && document.getElementById("demo-frame").getAttribute("aria-busy") === "false"'
    try:
        page.wait_for_function(done, timeout=PATIENCE)
    except Late:
        raise AssertionError(
            f'{act.__name__}({", ".join(map(str, what))[:80]}): no answer in {PATIENCE / 1000:.0f} s'
        ) from None
    return said(page)


def open_demo(page, url):
    "Go to the page, and wait for the first map or for an excuse."
    page.goto(url)
    page.wait_for_function(
        '/window|cannot|stopped/.test(document.getElementById("demo-status").textContent)', timeout=PATIENCE
    )


def press(page, slider, key):
    page.focus(f'#demo-{slider}')
    page.keyboard.press(key)


def choose(page, method):
    page.check(f'input[value={method}]')


def drop(page, name, kind, data):
    "Drop a file on the page, as a reader does."
    transfer = page.evaluate_handle(
        '''([name, kind, data]) => {
        const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name, {type: kind}));
        return transfer; }''',
        [name, kind, base64.b64encode(data).decode()],
    )
    page.dispatch_event('#demo-frame', 'drop', {'dataTransfer': transfer})


def png(image):
    "An image (H, W, 3) as the bytes of a PNG."
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    return file.getvalue()


class Judge:
    "What Python says of the same scene, with the same file: onnxruntime for the network, the library for the windows."

    def __init__(self, page, url):
        fetch = lambda name: page.request.get(urljoin(url, f'_static/demo/assets/{name}')).body()
        with tempfile.TemporaryDirectory() as folder:
            (path := Path(folder, 'model.onnx')).write_bytes(fetch('model.onnx'))
            self.predict, about = onnx_predictor(path), read_onnx_metadata(path)['unetkit']
        self.palette = Palette(**about['palette'])
        self.halo = {name: about[name] for name in ('halo', 'multiple')}
        self.image = np.array(Image.open(io.BytesIO(fetch('scene.png'))))

    def agrees(self, page, image, method, **sizes):
        "Raise `AssertionError` unless the page's labels of an image are the library's."
        labels = colours_to_labels(canvas(page, 'map'), self.palette)
        off = np.mean(labels != predict_tile(self.predict, image, method, **sizes))
        assert off <= TIES, (
            f'{off:.3%} of the labels are not those of predict_tile(..., {method!r}, {sizes}) for {image.shape}'
        )


def check_maps(page, judge):
    "Maps are the library's, seams come and go, and each slider changes map and numbers."
    shares = {}

    def agrees(name, method, **sizes):
        judge.agrees(page, judge.image, method, **sizes)
        shares[name] = changed(page)

    agrees('patches 32/32', 'patches', patch_size=32, stride=32)
    assert shares['patches 32/32'] > 0.5, f'no seams to see: {shares}'
    for slider, key, name, sizes in [
        ('patch', 'ArrowRight', 'patches 64/64', (64, 64)),
        ('stride', 'ArrowLeft', 'patches 64/48', (64, 48)),
        ('stride', 'ArrowLeft', 'patches 64/32', (64, 32)),
    ]:
        before, picture = numbers(page), canvas(page, 'map')
        settle(page, press, slider, key)
        assert (canvas(page, 'map') != picture).any(), f'{name}: the map did not change'
        for number in ('changed', 'windows'):
            assert numbers(page)[number] != before[number], (
                f'{name}: {number} did not change from {before[number]}'
            )
        agrees(name, 'patches', patch_size=sizes[0], stride=sizes[1])
    settle(page, choose, 'blend')
    agrees('blend 64/32', 'blend', patch_size=64, stride=32)
    settle(page, choose, 'exact')
    for core in (256, 128):
        agrees(f'exact {core}', 'exact', core=core, **judge.halo)
        assert shares[f'exact {core}'] == 0, f'exact windows differ from the whole image: {shares}'
        settle(page, press, 'patch', 'ArrowLeft')
    assert page.is_disabled('#demo-stride'), 'the stride of exact windows can be moved'
    assert shares['patches 64/32'] < shares['patches 64/64'] < shares['patches 32/32'], (
        f'seams do not fade: {shares}'
    )
    assert shares['blend 64/32'] < shares['patches 64/64'], f'blending hides nothing: {shares}'
    settle(page, choose, 'patches')
    return shares


def check_haste(page):
    "Of many moves in a row only the last one counts."

    def hurry(page):
        press(page, 'stride', 'Home')
        page.wait_for_timeout(400)
        press(page, 'stride', 'End')
        press(page, 'patch', 'End')

    settle(page, hurry)
    page.wait_for_timeout(500)
    assert numbers(page)['windows'] == '6', f'after a hasty move there are {numbers(page)["windows"]} windows'
    assert page.inner_text('#demo-patch-value').startswith('256 px')


def check_files(page, judge):
    "Images are mapped, other files are refused in words, and the built-in scene comes back."
    for name, kind, data, words in [
        ('notes.txt', 'text/plain', b'no picture', 'no image that this browser can read'),
        ('broken.png', 'image/png', png(judge.image)[:500], 'no image that this browser can read'),
        ('empty.jpg', 'image/jpeg', b'', 'no image that this browser can read'),
        ('tiny.png', 'image/png', png(judge.image[:8, :100]), 'at least 32'),
    ]:
        text = settle(page, drop, name, kind, data)
        assert words in text and name in text and 'choose' in text, f'{name}: the page says {text!r}'
    odd, wide = judge.image[150:227, 240:371], np.tile(judge.image[:40], (1, 3, 1))[:, :1100]
    for name, image, shown in [('wide.png', wide, '1024 × 40'), ('odd.png', odd, '131 × 77')]:
        text = settle(page, drop, name, 'image/png', png(image))
        assert 'window' in text and shown in page.inner_text('#demo-name'), (
            f'{name}: {text!r}, {page.inner_text("#demo-name")!r}'
        )
        assert ('middle is mapped' in text) == (name == 'wide.png'), f'{name}: {text!r}'
        assert numbers(page)['accuracy'] == '–', f'{name} is scored: {numbers(page)}'
    assert int(page.get_attribute('#demo-patch', 'max')) == 6, 'a patch may be larger than the image'
    settle(page, choose, 'exact')  # no multiple of the pooling grid: the page pads as the library does
    judge.agrees(page, odd, 'exact', core=64, **judge.halo)
    settle(
        page,
        Page.set_input_files,
        '#demo-file',
        {'name': 'picked.png', 'mimeType': 'image/png', 'buffer': png(judge.image[:64, :96])},
    )
    assert 'picked.png' in page.inner_text('#demo-name')
    settle(page, Page.click, '#demo-built-in')
    assert '%' in numbers(page)['accuracy'], 'the built-in scene is not scored'


def check_demo(
    page,  # A fresh page of Playwright
    url: str,  # Address of demo.html, on this machine
) -> dict:  # Per setting the share of labels that differ from the whole image's, in percent
    "Raise `AssertionError` unless the demo does what it promises."
    troubles, home = [], urlsplit(url).netloc
    page.on('console', lambda m: troubles.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda error: troubles.append(str(error)))
    abroad = lambda address: address.scheme.startswith('http') and address.netloc != home
    page.on('request', lambda r: troubles.append(f'request to {r.url}') if abroad(urlsplit(r.url)) else None)
    page.on('response', lambda r: troubles.append(f'{r.status} for {r.url}') if r.status >= 400 else None)
    open_demo(page, url)
    assert re.match(r'[\d,]+ windows in', said(page)), f'the demo does not start: {said(page)}; {troubles}'
    judge = Judge(page, url)
    assert f"reads {judge.halo['halo']} pixels more" in page.inner_text('article'), (
        'the text of docs/demo.md names another halo than the network has'
    )
    shares = check_maps(page, judge)
    check_haste(page)
    check_files(page, judge)
    view = page.viewport_size
    page.set_viewport_size({'width': 360, 'height': 800})
    wide = page.evaluate('document.documentElement.scrollWidth')
    page.set_viewport_size(view)
    assert wide <= 360, f'a screen of 360 pixels has to scroll sideways: the page is {wide} wide'
    assert not troubles, f'the page complains: {troubles}'
    return shares
