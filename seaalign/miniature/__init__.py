"""A complete spoken language model that trains on two CPU cores in about a minute; a synthetic toy, and it says so.

    voice.py    people who do not exist: a source-filter voice, expressive or flat, F0 and boundaries exactly known
    fsdd.py     people who do: recorded digits, with a flat synthetic counterpart
    codec.py    waveform -> tokens (content x prosody), tokens + timbre -> mel and F0 by flow matching
    vocoder.py  mel and F0 -> waveform, nothing to train
    ear.py      waveform -> words (the judge), waveform -> speaker
"""
