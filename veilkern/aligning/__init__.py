"""Ordinary photos to aligned faces: detectors, landmarks, the similarity, which face, whole folders, the report."""
