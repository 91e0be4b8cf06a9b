"""Public data sets that a user has downloaded -> manifests.

    python -m data.prepare NAME --metadata FILE... --media FOLDER --out manifest.jsonl

Nothing is downloaded here. Each set is a function that reads the metadata in the form in which they are
published and says of each sample which names its file may have; finding the files, counting those that are
missing and writing the manifest is common to all.

    tables.py    csv, tsv, json, jsonl and Parquet -> rows, with the columns that a set must have
    find.py      names -> files
    sets.py      the sets by name
    pictures.py  LAION
    sounds.py    AudioCaps, AudioSet, Freesound, BBC
    clips.py     WebVid, HD-VILA, ACAV
"""
