"""The systems that the paper compares with: FPMF, PAM, USAR and PA_IAA, each as a ``Personalizer``."""
