"""Serve the library to people and programs: a queue of jobs on disk, HTTP in front of it, and a page.

Nothing here knows how anything is made. A request is a line of jobs as `codi generate --jobs` reads it
(`codi.jobs`), and a result is what that command would have written.
"""
