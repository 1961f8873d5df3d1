//! What the files of the dashboard are, and how they are served.
