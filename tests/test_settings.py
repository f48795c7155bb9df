"Settings: every field has a kind and a line of help, and nothing else lists fields by name."

from dataclasses import fields

from fastcore.docments import docments

from unetkit.settings import KINDS, Settings


def test_every_field_has_kind_and_help():
    help_texts = docments(Settings, full=True, returns=False)
    for field in fields(Settings):
        assert field.metadata['kind'] in KINDS, field.name
        assert help_texts[field.name].docment, field.name
    assert sorted(Settings().as_dict()) == sorted(field.name for field in fields(Settings))
