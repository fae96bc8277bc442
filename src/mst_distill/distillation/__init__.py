"""MST-Distill: losses, masks, specialists, router and the three stages.

The method is that of Li et al., "MST-Distill: Mixture of Specialized Teachers for Cross-Modal
Knowledge Distillation", ACM MM 2025, arXiv 2507.07015. Nothing here knows Kedro or MLflow.
"""
