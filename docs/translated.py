"""What Sphinx needs for pages in another language, besides their catalogues.

Texts inside HTML are messages as well, links to pages that are not translated lead to the English ones, and names of the library to its
documentation there. `about.json`, which scripts/languages.py writes, says what is published and documented.
"""

import json
import posixpath
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

BLOCKS = 'a button details div dl dt dd figcaption figure form h1 h2 h3 img input label li ol p section summary table tbody td th thead tr ul'
TAG = re.compile(rf'(</?(?:{"|".join(BLOCKS.split())})\b[^>]*>)')
SAID = re.compile(r'\b((?:alt|aria-label)=")([^"]+)(")')


class Message(nodes.raw, addnodes.translatable):
    "A piece of HTML with one message: a text, or the words of a tag."

    def preserve_original_messages(self):
        pass

    def extract_original_messages(self):
        return [self['message']]

    def apply_translated_message(self, original_message, translated_message):
        self.children = [nodes.Text(self.astext().replace(original_message, translated_message))]
        self['translated'] = True


def pieces(text):
    "HTML in pieces, and the message of each: none, a text between tags, or what a tag says of a picture or a control."
    for part in TAG.split(text):
        found = SAID.search(part) if TAG.fullmatch(part) else re.match(r'()\s*(.*\w.*?)\s*()$', part, re.S)
        yield part, found[2] if found else None


class SplitHtml(SphinxTransform):
    "HTML becomes pieces with one message each, before Sphinx looks for messages. What code has printed stays as it is."

    default_priority = 5

    def apply(self, **options):
        for node in list(self.document.findall(nodes.raw)):
            above, inside = node.parent, False
            while above is not None:
                inside = inside or isinstance(above, nodes.TextElement) or above.get('nb_element') == 'cell_code_output'
                above = above.parent
            if inside or node.get('format') != 'html':
                continue
            made = []
            for part, message in pieces(node.astext()):
                kind = nodes.raw if message is None else Message
                piece = kind('', part, format='html')
                piece.source, piece.line = node.source, node.line
                if message:
                    piece['message'] = message
                made.append(piece)
            node.replace_self(made)


class Anchors(SphinxTransform):
    "A heading keeps the anchor of its English text: MyST forgets those of a page when it reads a translated heading."

    default_priority = 21  # after the translation

    def apply(self, **options):
        sections = [section for section in self.document.findall(nodes.section) if 'slug' in section]
        self.env.metadata[self.env.docname]['myst_slugs'] = {
            section['slug']: (section.line, section['ids'][0], section.next_node(nodes.title).astext())
            for section in sections
        }


class LinkNames(SphinxPostTransform):
    "Code that names something of the library is a link to its English documentation."

    default_priority = 8
    formats = ('html',)

    def run(self, **options):
        names = self.app.translated_about['names']
        up = '../' * (self.env.docname.count('/') + 1)
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().removesuffix('()')
            if name in names and isinstance(node.parent, (nodes.paragraph, nodes.emphasis, nodes.strong, nodes.entry)):
                module, _, full = names[name].partition('|')
                link = nodes.reference(refuri=f'{up}api/{module.rpartition(".")[2]}.html#{full}')
                node.replace_self(link)
                link += node


class EnglishPages(SphinxPostTransform):
    "A link to a notebook that is not translated is one to the place where its page would be, which scripts/languages.py looks for; or to the source."

    default_priority = 8  # before MyST says that there is no such page

    def run(self, **options):
        about = self.app.translated_about
        for node in list(self.document.findall(addnodes.pending_xref)):
            target, _, place = node['reftarget'].partition('#')
            if node.get('reftype') != 'myst' or node.get('refdomain') or not target:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(self.env.docname), target))
            stem, ending = posixpath.splitext(path)
            if stem.removeprefix('lessons/') in about['published'] or ending == '.md':
                address = posixpath.splitext(target)[0] + '.html' + (f'#{place}' if place else '')
            else:
                address = f'{about["source"]}/nbs/{path.removeprefix("lessons/")}'
            link = nodes.reference('', '', *[child.deepcopy() for child in node.children], refuri=address)
            node.replace_self(link)


def read_about(app):
    "Take in what scripts/languages.py says of the English site; it plays no part when messages are extracted."
    path = app.config.translated_about
    app.translated_about = {'names': {}, 'published': [], 'source': ''}
    if path.exists():
        app.translated_about = json.loads(path.read_text(encoding='utf-8'))


def setup(app):
    app.add_config_value('translated_about', None, 'env')
    app.connect('builder-inited', read_about)
    app.add_transform(SplitHtml)
    app.add_transform(Anchors)
    app.add_post_transform(LinkNames)
    app.add_post_transform(EnglishPages)
    return {'parallel_read_safe': True}
