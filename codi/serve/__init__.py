"""Serve codi to others: a queue of jobs on disk, a process that makes them, HTTP and a page.

    values.py    what a job and its events look like from outside, and what can go wrong
    limits.py    how much anybody may ask for
    store.py     the queue on disk
    feed.py      events, for those who wait for them
    pace.py      how long jobs take, and how many are made at once
    uploads.py   the files of jobs
    service.py   all of these together: what HTTP and page talk to
    link.py      the process that makes, as the server sees it: started, asked, restarted
    worker.py    that process: what it is told and answers
    making.py    what it does: check and make jobs
    masks.py     and makes masks of what was painted
    reports.py   what it says meanwhile: progress, previews, what is done
    command.py   `codi serve`
    page/        the page
    app.py       HTTP in front of a service, with the models of shapes.py
    openai.py    the same for clients of OpenAI, with sounds.py
    access.py    who may ask for what
    bodies.py    requests, read with their files
    downloads.py prompts from allowed addresses
    files.py     files, sent whole or in part
    errors.py    what cannot be done, in one line

A job is a line of a file of jobs (`codi.jobs`), checked and made as `codi generate` does. Nothing here knows
how anything is made. Nothing heavy is imported outside worker.py, making.py
and the files of HTTP and page.
"""
