"""A complete spoken language model that trains on two CPU cores in about a minute; a synthetic toy, and it says so.

- voice.py: people who do not exist, a source-filter voice, expressive or flat, F0 and boundaries exactly known
- fsdd.py, espeak.py: people who do exist, recorded digits, and a flat synthetic counterpart
- codec.py, codec_fit.py, flow.py: waveform -> tokens (content x prosody); tokens + timbre -> mel and F0
- vocoder.py: mel and F0 -> waveform, nothing to train
- lm.py: text -> tokens
- ear.py, speaker.py: the judges, waveform -> words, waveform -> who speaks
"""
