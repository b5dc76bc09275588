"""Who may do what: users, organizations, roles, and the guard every route stands behind."""
