"""LLM-as-a-judge: the student's answers against the teacher's, pair by pair."""
