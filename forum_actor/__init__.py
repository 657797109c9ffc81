"""The shared forum of a campaign: typed posts, claims, search, files in each workspace, and the code store."""
