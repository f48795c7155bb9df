"""Visit every page of the built site in a headless browser, as a reader would.

On every page: no error on the console, no exception, no request off the loopback, no answer of 400 or more, no picture that cannot be shown or has no
alternative text, no link to a page or a place of the site that is not there, no sideways scroll at the width of a phone, enough contrast in light and
dark. Then what a reader does. Each kind of fault is planted on a page of its own first, and must be found.
"""

import functools
import re
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from demo import check_demo

BASE = '/unetkit/'  # the site lives in a folder of its host
DESKTOP, PHONE = {'width': 1280, 'height': 900}, {'width': 360, 'height': 740}
SEARCHES = {
    'window_starts': 'api/patches',
    'ModelPipeline': 'api/experiments',
    'predict_raster': 'api/scale',
    'stride': 'lessons/04_patches',
}
WIDE = '''() => {
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width + 1) return []
  const clipped = (e) => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return true }
  return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > width + 1 && !clipped(e))
    .slice(0, 3).map((e) => `${e.tagName.toLowerCase()}.${e.className} ${Math.round(e.getBoundingClientRect().right)} px: ${(e.textContent || '').trim().slice(0, 60)}`)
    .concat('the page scrolls sideways')
}'''
PICTURES = '''async () => {
  const bad = []
  for (const img of document.querySelectorAll('img')) {
    img.loading = 'eager'
    try { await img.decode() } catch { bad.push(`picture cannot be shown: ${img.src.slice(0, 90)}`) }
    if (!img.hasAttribute('alt') || /\\.(png|jpe?g|svg|gif)$/.test(img.alt) || (!img.alt && !img.closest('[aria-hidden=true]') && !img.closest('a, button'))) bad.push(`picture without alternative text: ${img.src.slice(0, 90)}`)
  }
  return bad
}'''
CONTRAST = '''() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data] }
  const over = (e) => { for (let p = e; p; p = p.parentElement) { const c = rgba(getComputedStyle(p).backgroundColor); if (c[3] > 200) return c } return rgba('white') }
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0)
  const found = new Map()
  for (const e of document.querySelectorAll('main p, main li, main td, main a, main code, main h1, main h2, main pre span, main figcaption, main label, .bd-sidebar a')) {
    if (!e.textContent.trim() || !e.getClientRects().length) continue
    const style = getComputedStyle(e), text = rgba(style.color)
    if (text[3] < 200) continue
    const [a, b] = [light(text), light(over(e))].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05)
    if (ratio < 4.5) found.set(`${e.tagName.toLowerCase()}.${e.className}`, `contrast ${ratio.toFixed(1)} of ${e.tagName.toLowerCase()}.${e.className}: ${e.textContent.trim().slice(0, 40)}`)
  }
  return [...found.values()].slice(0, 4)
}'''
SHOWN = '(figure) => [figure.querySelector("img").src, figure.querySelector(".frames-numbers").innerText]'


class Handler(SimpleHTTPRequestHandler):
    "The site below BASE; a wrong address gets the site's own page."

    def translate_path(self, path):
        return super().translate_path(path.removeprefix(BASE.rstrip('/')))

    def send_error(self, code, message=None, explain=None):
        page = Path(self.directory) / '404.html'
        if code != 404 or not page.exists():
            return super().send_error(code, message, explain)
        body = page.read_bytes()
        self.send_response(404)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    "Serve a folder on the loopback; the address of the site."
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}{BASE}'
    finally:
        server.shutdown()
        server.server_close()


class Page(HTMLParser):
    "Links, addresses of what is loaded, and places (ids) of a page."

    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[key] for key in ('id', 'name') if found.get(key)}
        self.links += [
            found[key]
            for key in ('href', 'src', 'data-src')
            if found.get(key) and not (tag == 'link' and found.get('rel') in ('preconnect', 'canonical'))
        ]


def broken_links(folder):
    "Page -> links to what the site does not have."
    pages = {
        p: Page(p.read_text(encoding='utf-8'))
        for p in sorted(folder.rglob('*.html'))
        if '_static' not in p.relative_to(folder).parts
    }
    faults = {}
    for path, page in pages.items():
        here = 'http://site' + BASE + path.relative_to(folder).as_posix()
        for link in set(page.links):
            address, place = urldefrag(urljoin(here, link))
            parts = urlsplit(address)
            if parts.netloc != 'site' or parts.scheme not in ('http', 'https'):
                continue
            if not parts.path.startswith(BASE):
                faults.setdefault(path, []).append(f'link out of the site: {link}')
                continue
            target = folder / unquote(parts.path.removeprefix(BASE))
            target = target / 'index.html' if target.is_dir() else target
            if not target.exists():
                faults.setdefault(path, []).append(f'broken link: {link}')
            elif place and target in pages and unquote(place) not in pages[target].places:
                faults.setdefault(path, []).append(f'link to a place that is not there: {link}')
    return pages, faults


class Reader:
    "A browser page that takes note of what goes wrong."

    def __init__(self, context, root):
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.faults, self.root = [], root
        self.page.on(
            'console',
            lambda m: (
                self.faults.append(f'console: {m.text[:200]}') if m.type in ('error', 'warning') else None
            ),
        )
        self.page.on('pageerror', lambda e: self.faults.append(f'exception: {str(e)[:200]}'))
        self.page.on(
            'request',
            lambda r: (
                self.faults.append(f'request off the site: {r.url[:120]}') if self.away(r.url) else None
            ),
        )
        self.page.on(
            'response',
            lambda r: self.faults.append(f'answer {r.status}: {r.url[:120]}') if r.status >= 400 else None,
        )

    def away(self, url):
        return not url.startswith(('data:', 'blob:', 'about:')) and urlsplit(url).hostname != '127.0.0.1'

    def visit(self, name):
        self.page.goto(self.root + name, wait_until='load')
        return self.page

    def take(self):
        found, self.faults = self.faults, []
        return found


def look(reader, name):
    "Faults of one page."
    reader.page.set_viewport_size(DESKTOP)
    page = reader.visit(name)
    found = page.evaluate(PICTURES)
    for mode in ('light', 'dark'):
        page.evaluate(
            '(m) => { document.documentElement.dataset.theme = m; document.documentElement.dataset.mode = m }',
            mode,
        )
        found += [f'{mode}: {fault}' for fault in page.evaluate(CONTRAST)]
    page.set_viewport_size(PHONE)
    for _ in range(20):  # the sidebar takes its time to move out of the way
        page.wait_for_timeout(100)
        wide = page.evaluate(WIDE)
        if not wide:
            break
    found += wide
    page.set_viewport_size(DESKTOP)
    return [*dict.fromkeys(found + reader.take())]


# Faults that must be found

PLANTED = {
    'an error on the console': ('<script>console.error("planted")</script>', 'console: planted'),
    'an exception': ('<script>setTimeout(() => { throw new Error("planted") })</script>', 'exception'),
    'a request off the site': ('<script src="http://localhost:9/x.js"></script>', 'request off the site'),
    'a missing file': ('<script src="missing.js"></script>', 'answer 404'),
    'a broken picture': ('<img src="missing.png" alt="planted">', 'picture cannot be shown'),
    'a picture without text': (
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==">',
        'without alternative text',
    ),
    'a picture with its address as text': (
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==" alt="../_images/x.png">',
        'without alternative text',
    ),
    'something wide': ('<div style="width:700px">wide</div>', 'scrolls sideways'),
    'pale text': ('<main><p style="color:#bbb">planted</p></main>', 'light: contrast'),
    'a broken link': ('<a href="nowhere.html">x</a>', 'broken link'),
    'a link to no place': ('<a href="#nowhere">x</a>', 'a place that is not there'),
}
SOUND = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>x</title><body>{}</body></html>'


@pytest.fixture
def reader(new_context):
    "A browser page that takes note of what goes wrong."
    return lambda root: Reader(new_context(viewport=DESKTOP), root)


@pytest.fixture(scope='session')
def address(site):
    with served(site) as root:
        yield root


def names_of(site):
    return sorted(
        path.relative_to(site).as_posix()
        for path in site.rglob('*.html')
        if '_static' not in path.relative_to(site).parts
    )


@pytest.mark.parametrize('what', ['a sound page', *PLANTED])
def test_planted_faults_are_found(what, tmp_path, reader):
    body, said = PLANTED.get(what, ('', ''))
    (tmp_path / 'page.html').write_text(SOUND.format(body), encoding='utf-8')
    _, links = broken_links(tmp_path)
    with served(tmp_path) as root:
        found = links.get(tmp_path / 'page.html', []) + look(reader(root), 'page.html')
    assert any(said in fault for fault in found) if said else not found, found


def test_links_lead_somewhere(site):
    _, faults = broken_links(site)
    assert not faults, '\n'.join(
        f'{path.relative_to(site)}: {fault}' for path, found in faults.items() for fault in found
    )


@pytest.mark.parametrize('part', range(4))
def test_every_page(part, site, address, reader):
    "A quarter of the pages in each case, so that two browsers can share them."
    chosen = [name for name in names_of(site)[part::4] if name != '404.html']
    one = reader(address)
    faults = {name: found for name in chosen if (found := look(one, name))}
    assert chosen and not faults, '\n'.join(
        f'{name}: {fault}' for name, found in faults.items() for fault in found
    )


@pytest.mark.parametrize('word', SEARCHES)
def test_search(word, address, reader):
    one = reader(address)
    page = one.visit(f'search.html?q={word}')
    page.wait_for_function(
        '([w]) => [...document.querySelectorAll("#search-results li a")].slice(0, 12).some((a) => a.href.includes(w))',
        arg=[SEARCHES[word]],
        timeout=20_000,
    )
    assert not one.take()


def test_dark(address, reader):
    one = reader(address)
    page = one.visit('lessons/04_patches.html')
    paper = 'getComputedStyle(document.body).backgroundColor'
    before = page.evaluate(paper)
    page.locator('button.theme-switch-button:visible').first.click()
    page.locator('button.theme-change-button[data-mode=dark]:visible').first.click()
    assert one.visit('api/index.html').evaluate('document.documentElement.dataset.theme') == 'dark', (
        'the choice is not kept'
    )
    assert page.evaluate(paper) != before and not one.take()


def test_copy_and_formulas(address, reader):
    one = reader(address)
    page = one.visit('index.html')
    page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
    code = page.locator('div.highlight-python').first
    code.hover()
    code.locator('button.copybtn').click()
    assert page.evaluate('navigator.clipboard.readText()').strip() == code.locator('pre').inner_text().strip()
    page = one.visit('lessons/06_losses.html')
    page.wait_for_function('() => document.querySelectorAll("mjx-container svg").length > 0', timeout=20_000)
    assert not one.take()


def test_pictures_made_beforehand(site, address, reader):
    "Every control of every panel, moved by keyboard, changes picture and numbers."
    one, panels = reader(address), 0
    for name in names_of(site):
        if 'class="frames"' not in (site / name).read_text(encoding='utf-8'):
            continue
        page = one.visit(name)
        for answer in page.locator('details:not([open]):has(figure.frames) > summary').all():
            answer.press('Enter')
        for figure in page.locator('figure.frames').all():
            panels += 1
            for control in figure.locator('input, select').all():
                assert moved(page, figure, control), (
                    f'{name}, panel {panels}: {control.evaluate("c => c.parentElement.innerText")} changes nothing'
                )
    assert panels and not one.take()


def moved(page, figure, control):
    "Whether a control changes picture and numbers; the guard does only where the split is blocked."
    before = figure.evaluate(SHOWN)
    for key in ('ArrowRight', 'ArrowDown', 'ArrowLeft', 'ArrowLeft', 'ArrowUp'):
        control.press(key)
        page.wait_for_timeout(60)
        after = figure.evaluate(SHOWN)
        if after[0] != before[0] and after[1] != before[1]:
            return True
    return 'guard' in control.evaluate('c => c.parentElement.innerText')


def test_languages(site, address, reader):
    "Each page that exists in another language leads there and back by keyboard, and keeps its anchors."
    one, pages = reader(address), [name for name in names_of(site) if name.startswith('pt/')]
    pages.remove('pt/search.html')
    assert {'pt/index.html', 'pt/lessons/glossary.html'} <= set(pages)
    for name in pages:
        english = name.removeprefix('pt/')
        for here, language, there in ((english, 'en', name), (name, 'pt-BR', english)):
            page = one.visit(here)
            assert page.evaluate('document.documentElement.lang') == language, here
            page.locator('.languages a').press('Enter')
            page.wait_for_url(one.root + there)
        anchors = [
            set(re.findall(r'<section id="([^"]+)"', (site / part).read_text(encoding='utf-8')))
            for part in (english, name)
        ]
        assert anchors[0] == anchors[1], name
    switch = one.visit('lessons/04_patches.html').locator('.languages')
    assert switch.count() == 0 and not one.take()


def test_links_to_english_pages(site):
    "What is not translated is linked in English, and says so."
    text = (site / 'pt/lessons/index.html').read_text(encoding='utf-8')
    assert 'href="../../lessons/04_patches.html" hreflang="en"' in text
    assert 'href="00_a_map_in_ten_minutes.html"' in text and '{{' not in text


def test_first_page(address, reader):
    one = reader(address)
    page = one.visit('index.html')
    at = 'getComputedStyle(document.querySelector(".reveal-map")).clipPath'
    before = page.evaluate(at)
    page.locator('.reveal-frame input').press('ArrowRight')
    assert page.evaluate(at) != before and not one.take()


def test_wrong_address(address, reader):
    one = reader(address)
    one.page.goto(one.root + 'lessons/no_such_page.html')
    assert one.page.locator('h1').inner_text() == 'Not on this map'
    for link in one.page.locator('a').evaluate_all('list => list.map((a) => a.href)'):
        assert one.page.request.get(link).status == 200, link
    assert all('404' in fault for fault in one.take())


def test_demo(address, reader):
    one = reader(address)
    check_demo(one.page, one.root + 'demo.html')
    assert not one.take()
