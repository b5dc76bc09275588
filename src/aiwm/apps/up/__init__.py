"""`aiwm up`: everything on one machine, each part a child process that is supervised."""
