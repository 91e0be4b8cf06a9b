"""Public data sets that a user has downloaded, made into manifests.

    python -m data.prepare NAME --metadata FILE... --media FOLDER --out manifest.jsonl
    python -m data.prepare duplicates manifest.jsonl --out kept.jsonl
    python -m data.prepare split kept.jsonl --train train.jsonl --validation validation.jsonl

and a folder of one's own files:

    python -m data.prepare folder FOLDER --out manifest.jsonl

Nothing is downloaded here. Each data set is a function that reads the metadata in the form in which they are
published and says of each sample which names its file may have; finding the files, counting those that are
missing and writing the manifest is common to all.

    folder.py      files that lie beside each other under one name
    tables.py      csv, tsv, json, jsonl and Parquet -> rows, with the columns that a data set must have
    find.py        names -> files
    sets.py        the data sets by name
    pictures.py    LAION
    sounds.py      AudioCaps, AudioSet, Freesound, BBC
    clips.py       WebVid, HD-VILA, ACAV
    emoji/         drawings, instruments and voices from packages
    duplicates.py  rows whose media came before
    split.py       a manifest in two parts
    outputs.py     the files that all of these write
"""
