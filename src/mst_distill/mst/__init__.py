"""MST-Distill: the three stages in order, and what they are made of.

The method is that of Li et al., "MST-Distill: Mixture of Specialized Teachers for Cross-Modal
Knowledge Distillation", ACM MM 2025, arXiv 2507.07015. Nothing here knows Kedro or MLflow.
"""
