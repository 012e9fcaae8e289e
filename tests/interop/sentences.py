"""Sentences whose embeddings are compared."""

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A dog is running across the field after a ball.",
    "Heavy rain is expected in the north tomorrow morning.",
    "The committee postponed its decision until next spring.",
    "She baked two loaves of bread before breakfast.",
    "Quarterly revenue fell by seven percent.",
    "How do I reset the password of my account?",
    "The bridge was closed to lorries after the flood.",
    "Photosynthesis turns light into chemical energy.",
    "He plays the cello in a small orchestra.",
    "The patient was given antibiotics for ten days.",
    "Our train was forty minutes late, again.",
    "A matrix is invertible if its determinant is not zero.",
    "They planted oak trees along the canal.",
    "The museum opens at nine and is free on Sundays.",
    "Inflation makes savings lose their value.",
    "No.",
    "Wolves returned to the valley after a hundred years.",
    "Please send the signed contract to our office by Friday.",
    "The satellite passed above the pole, took its pictures and sent them to three stations on the ground within an hour.",
]
