"""The model: members, the ensemble they form, its pictures and their quality."""
