//! Vector functions and their slice forms.
